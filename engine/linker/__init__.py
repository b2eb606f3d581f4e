"""The linker: SGLang's device memory <-> the state store. Runs inside scheduler processes."""
