// FRACTAL_NZ: a matrix is cut into blocks of 16 rows and N0 columns. The elements of a block follow
// each other row by row, the blocks column by column of blocks; the blocks at the lower and right
// edge are filled up with zeros. So element (m, n) lies at [n / N0][m / 16][m % 16][n % N0]. From
// CANN's documentation of the format; no hardware was asked. torch_npu decides N0 with the shape
// that it gives the memory: 32 for elements of one byte, 16 for all wider ones.
#include "formats.h"

#include <algorithm>
#include <cstring>

namespace fakecann {
namespace {

constexpr int64_t kBlockRows = 16;

}  // namespace

Fractal Fractal::of(const std::vector<int64_t> &shape, const std::vector<int64_t> &stored,
                    size_t element_bytes) {
  int64_t batch = 1;
  for (size_t i = 0; i + 2 < shape.size(); ++i) batch *= shape[i];
  const int64_t across = stored.size() == shape.size() + 2 ? stored.back() : 0;
  Fractal made = {batch, shape[shape.size() - 2], shape[shape.size() - 1], across, element_bytes};
  const bool fits = across > 0 && stored[stored.size() - 2] == kBlockRows &&
                    stored[stored.size() - 3] == made.fractal_rows() &&
                    stored[stored.size() - 4] == made.fractal_columns();
  if (!fits) made.across = 0;
  return made;
}

int64_t Fractal::fractal_rows() const { return (rows + kBlockRows - 1) / kBlockRows; }

int64_t Fractal::fractal_columns() const { return (columns + across - 1) / across; }

size_t Fractal::plain_bytes() const {
  return static_cast<size_t>(batch * rows * columns) * element_bytes;
}

size_t Fractal::fractal_bytes() const {
  return static_cast<size_t>(batch * fractal_rows() * fractal_columns() * kBlockRows * across) *
         element_bytes;
}

// Calls move(offset as fractals, offset as rows and columns, bytes) for each run that lies together
// in both.
template <typename Move>
void Fractal::each_run(Move move) const {
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t block = 0; block < fractal_columns(); ++block) {
        const int64_t first = block * across;
        const int64_t width = std::min(across, columns - first);
        const int64_t plain = (b * rows + m) * columns + first;
        const int64_t blocks_before =
            (b * fractal_columns() + block) * fractal_rows() + m / kBlockRows;
        const int64_t fractal = (blocks_before * kBlockRows + m % kBlockRows) * across;
        move(static_cast<size_t>(fractal) * element_bytes,
             static_cast<size_t>(plain) * element_bytes,
             static_cast<size_t>(width) * element_bytes);
      }
    }
  }
}

void Fractal::from_plain(char *fractal, const char *plain) const {
  std::memset(fractal, 0, fractal_bytes());
  each_run([=](size_t at_fractal, size_t at_plain, size_t bytes) {
    std::memcpy(fractal + at_fractal, plain + at_plain, bytes);
  });
}

void Fractal::to_plain(char *plain, const char *fractal) const {
  each_run([=](size_t at_fractal, size_t at_plain, size_t bytes) {
    std::memcpy(plain + at_plain, fractal + at_fractal, bytes);
  });
}

}  // namespace fakecann
