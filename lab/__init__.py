"""The local data centre: a registry, balancers, fleets on an older release, traffic and an Airflow, all real.

The demo and the end-to-end tests share it. Nothing here is part of the product.
"""
