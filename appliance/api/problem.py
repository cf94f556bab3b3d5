"""What the control socket answers when it does not do what it was asked."""


class RefusedError(Exception):
    """The text says why, and what to do instead."""

    def __init__(self, status: int, detail: str) -> None:
        """
        Args:
            status: of HTTP.
            detail: for people.
        """
        super().__init__(detail)
        self.status = status
