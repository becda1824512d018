"""What a prompt says beside its words: weights and sections (syntax.py), adapters (networks.py). Pure."""
