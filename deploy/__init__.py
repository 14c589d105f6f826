"""The parts of deploy.sh, in bash and in Python."""
