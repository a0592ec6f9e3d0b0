"""The heart: sampler, session, engine, worker, and the messages that cross their border."""
