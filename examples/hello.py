"""Greets somebody. The parameters are bound from the JSON object, or the query, of the call."""


def main(name: str = "world", times: int = 1) -> str:
    print(f"greeting {name}")
    return "Hello, " * times + f"{name}!"
