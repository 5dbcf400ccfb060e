"""The toy world: a seeded renderer of captioned scenes, the embedded default data set and every test's data.

settings → scene → render, captions, similarity → samples → files → world (make_toy_world, the command line).
"""
