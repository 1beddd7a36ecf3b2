// Philox4x32-10 against the known-answer vectors published with Random123 (kat_vectors):
// https://github.com/DEShawResearch/random123/blob/main/tests/kat_vectors
#include "rows/philox.h"
#include "tests/check.h"

using namespace fastrobust;

void expect(Words counter, uint64_t key, Words wanted) {
  const Words got = philox(counter, key);
  for (int i = 0; i < 4; ++i) CHECK(got.w[i] == wanted.w[i]);
}

int main() {
  expect({{0, 0, 0, 0}}, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  expect({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, 0xffffffffffffffff,
         {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  expect({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0x299f31d0a4093822,
         {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
  return report();
}
