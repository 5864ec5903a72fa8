"""Names that users type: capitals, hyphens and underscores do not matter."""


def bare(name: str) -> str:
    """Return a name without what does not matter in it: "ResNet-18" and "resnet18" are the same."""
    return name.lower().replace("-", "").replace("_", "")
