"""Time and memory of one engine alone: stage by stage, at a frame rate, by batch, from a cold start."""
