"""What a machine may lack."""


class Missing(Exception):
    """A part is not installed; how to install it."""

    def __init__(self, part: str, remedy: str) -> None:
        super().__init__(f"{part} is not here: install it with {remedy}")
        self.part = part
        self.remedy = remedy
