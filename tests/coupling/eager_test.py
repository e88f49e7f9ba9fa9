from tests.eager import call_of, check_second_call, each_function


@each_function("coupling")
def test_the_second_call_of_a_function_compiles_nothing(function):
    check_second_call(call_of(function))
