"""Run the quick benchmarks of this folder; options are those of bench_ops."""

from . import bench_allocator, bench_ops

bench_ops.main()
bench_allocator.main([])
