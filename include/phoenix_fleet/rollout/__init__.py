"""The rollout: plans drawn from what is seen now, and the engine that replaces one instance, step by step."""
