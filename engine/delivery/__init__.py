"""An invoker process: ring → function. Never imports `engine.capture`."""
