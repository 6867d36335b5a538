def test_ray(ray_cluster):
    import ray
    assert ray.get(ray.remote(lambda: 2).remote())==2 and ray.cluster_resources()["CPU"]==4
