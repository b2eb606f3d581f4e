"""The CPU engine against independent references: naive recurrences, transformers, llama.cpp."""
