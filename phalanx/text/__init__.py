"""Between tokens and text: tokenizer, detokenizer, stop strings, chat templates. It knows no wire and no endpoint."""
