"""Run every benchmark of this folder; options are those of bench_ops."""

from . import bench_allocator, bench_deepfool, bench_ops

bench_ops.main()
bench_allocator.main([])
bench_deepfool.main([])
