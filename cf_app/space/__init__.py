"""The app as a Hugging Face Space: settings, GPU calls of bounded length, and a check of it all before the push."""
