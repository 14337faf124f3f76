"""Where prefill and decode run, and how KV travels between them."""
