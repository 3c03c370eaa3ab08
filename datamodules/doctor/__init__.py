"""The data doctor: reads every file once and says what is wrong with it."""
