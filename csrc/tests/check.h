// A test framework: CHECK prints and counts failures, report() is the result of main.
#pragma once

#include <cstdio>

inline int failures = 0;

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      ++failures;                                                     \
      std::printf("%s:%d: not %s\n", __FILE__, __LINE__, #condition); \
    }                                                                 \
  } while (0)

inline int report() {
  std::printf("%d failures\n", failures);
  return failures != 0;
}
