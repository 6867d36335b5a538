"""OpenAI's chat completions as plain records: requests, answers, errors, and the lines of a batch file."""
