//! Fine-tune LLaMA 2 and Mixtral with LoRA on libtorch, and measure whether it helped.
