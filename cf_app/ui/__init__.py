"""The page: Gradio carries state and events, `assets/` holds the look.

Never imports torch; talks to the engine through `Worker`.
"""
