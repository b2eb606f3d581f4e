"""Messages, what a chat template shows of them, and the token ids that the state has."""
