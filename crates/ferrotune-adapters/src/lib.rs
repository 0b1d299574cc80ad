//! LoRA and kin over any frozen matrix; PEFT files; merging.
