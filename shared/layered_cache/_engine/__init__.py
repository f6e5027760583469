"""The engine: decisions as coroutines over effects, and the two worlds that drive them. Nobody outside imports it."""
