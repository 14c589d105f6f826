"""Instances behind a balancer, killed and started under load: is every request answered right, or refused cleanly?"""
