"""Chat: conversations to prompts, and generated text to replies, in the model's own format."""
