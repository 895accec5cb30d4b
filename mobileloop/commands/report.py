def report() -> None:
    """stub"""
