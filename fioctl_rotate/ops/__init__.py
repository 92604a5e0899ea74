"""What an operator does, one function each; input and output happen here, through what is passed in."""
