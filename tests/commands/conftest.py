from trees import landscape, recorded, recorded_once, tree  # noqa: F401
