"""The parts of deploy.sh: what bash is good at in .sh, what it is not in .py."""
