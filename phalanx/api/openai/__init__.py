"""OpenAI's endpoints, one file a family: its request and response types and its handlers."""
