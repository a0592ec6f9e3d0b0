"""Networks: the causal transformer, its attention, text encoder and video autoencoders. They hold no session state."""
