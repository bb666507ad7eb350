// Formats: where the elements of a matrix lie in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fakecann {

// FRACTAL_NZ of tensors whose last two dimensions are (rows, columns).
struct Fractal {
  int64_t batch;
  int64_t rows;
  int64_t columns;
  // Elements in a row of a block; 0 where the stored shape is not one of this format.
  int64_t across;
  size_t element_bytes;

  // `stored` is how the program says that the tensor lies: [..., n1, m1, 16, elements across].
  static Fractal of(const std::vector<int64_t> &shape, const std::vector<int64_t> &stored,
                    size_t element_bytes);

  // Bytes as rows and columns, and as fractals with their padding.
  size_t plain_bytes() const;
  size_t fractal_bytes() const;

  void from_plain(char *fractal, const char *plain) const;
  void to_plain(char *plain, const char *fractal) const;

 private:
  int64_t fractal_rows() const;
  int64_t fractal_columns() const;
  template <typename Move>
  void each_run(Move move) const;
};

}  // namespace fakecann
