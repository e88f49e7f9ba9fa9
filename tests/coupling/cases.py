from tests.case import Case

CASES: dict[str, Case] = {}
