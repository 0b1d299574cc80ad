//! BERT sentence encoder (MiniLM family).
