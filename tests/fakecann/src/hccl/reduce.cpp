#include "reduce.h"

#include "../fakecann.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fakecann {
namespace {

uint32_t bits_of(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float float_of(uint32_t bits) {
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// An element as it lies in memory, and the type that it is reduced in.
template <typename T>
struct Plain {
  using Stored = T;
  using Wide = T;
  static Wide widen(Stored value) { return value; }
  static Stored narrow(Wide value) { return value; }
};

struct Bfloat16 {
  using Stored = uint16_t;
  using Wide = float;
  static Wide widen(Stored value) { return float_of(uint32_t{value} << 16); }
  // To the nearest, ties to even.
  static Stored narrow(Wide value) {
    const uint32_t bits = bits_of(value);
    if (std::isnan(value)) return static_cast<Stored>((bits >> 16) | 0x40);
    return static_cast<Stored>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
  }
};

struct Float16 {
  using Stored = uint16_t;
  using Wide = float;
  static Wide widen(Stored value) {
    const float sign = (value & 0x8000) != 0 ? -1.0F : 1.0F;
    const int exponent = (value >> 10) & 0x1F;
    const int fraction = value & 0x3FF;
    if (exponent == 0x1F) return fraction != 0 ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
    return sign * std::ldexp(static_cast<float>(fraction + 0x400), exponent - 25);
  }
  static Stored narrow(Wide value) {
    const uint16_t sign = static_cast<uint16_t>((bits_of(value) >> 16) & 0x8000);
    if (std::isnan(value)) return static_cast<Stored>(sign | 0x7E00);
    const float size = std::fabs(value);
    if (size == 0.0F) return sign;
    // 65520 lies halfway between the largest number, 65504, and what the next one would be.
    if (size >= 65520.0F) return static_cast<Stored>(sign | 0x7C00);
    int exponent = 0;
    std::frexp(size, &exponent);
    // The place of the last bit: of normal numbers 11 below the exponent, never below 2 ^ -24.
    const int last = std::max(exponent - 11, -24);
    // Ties to even, as nearbyint does by default.
    const int units = static_cast<int>(std::nearbyint(std::ldexp(size, -last)));
    // Units of a normal number hold its hidden bit, which adds one to the exponent's field; one
    // that was rounded up to 2048 adds two. Both come out right.
    return static_cast<Stored>(sign | (((last + 24) << 10) + units));
  }
};

template <typename Wide>
Wide combined(Wide a, Wide b, HcclReduceOp operation) {
  switch (operation) {
    case HCCL_REDUCE_PROD:
      return static_cast<Wide>(a * b);
    case HCCL_REDUCE_MAX:
      return std::max(a, b);
    case HCCL_REDUCE_MIN:
      return std::min(a, b);
    default:
      return static_cast<Wide>(a + b);
  }
}

template <typename Type>
bool reduce_as(void *out, const std::vector<const char *> &parts, uint64_t count,
               HcclReduceOp operation) {
  using Stored = typename Type::Stored;
  const auto element = [](const char *part, uint64_t index) {
    Stored value;
    std::memcpy(&value, part + index * sizeof value, sizeof value);
    return Type::widen(value);
  };
  for (uint64_t i = 0; i < count; ++i) {
    auto result = element(parts[0], i);
    for (size_t rank = 1; rank < parts.size(); ++rank) {
      result = combined(result, element(parts[rank], i), operation);
    }
    const Stored value = Type::narrow(result);
    std::memcpy(static_cast<char *>(out) + i * sizeof value, &value, sizeof value);
  }
  return true;
}

}  // namespace

size_t element_bytes(HcclDataType type) {
  switch (type) {
    case HCCL_DATA_TYPE_INT8:
    case HCCL_DATA_TYPE_UINT8:
    case HCCL_DATA_TYPE_HIF8:
    case HCCL_DATA_TYPE_FP8E4M3:
    case HCCL_DATA_TYPE_FP8E5M2:
    case HCCL_DATA_TYPE_FP8E8M0:
      return 1;
    case HCCL_DATA_TYPE_INT16:
    case HCCL_DATA_TYPE_UINT16:
    case HCCL_DATA_TYPE_FP16:
    case HCCL_DATA_TYPE_BFP16:
      return 2;
    case HCCL_DATA_TYPE_INT32:
    case HCCL_DATA_TYPE_UINT32:
    case HCCL_DATA_TYPE_FP32:
      return 4;
    case HCCL_DATA_TYPE_INT64:
    case HCCL_DATA_TYPE_UINT64:
    case HCCL_DATA_TYPE_FP64:
      return 8;
    default:
      complain("HCCL data type %d is not emulated", static_cast<int>(type));
      return 0;
  }
}

bool reduce(void *out, const std::vector<const char *> &parts, uint64_t count, HcclDataType type,
            HcclReduceOp operation) {
  switch (type) {
    case HCCL_DATA_TYPE_FP32:
      return reduce_as<Plain<float>>(out, parts, count, operation);
    case HCCL_DATA_TYPE_FP64:
      return reduce_as<Plain<double>>(out, parts, count, operation);
    case HCCL_DATA_TYPE_FP16:
      return reduce_as<Float16>(out, parts, count, operation);
    case HCCL_DATA_TYPE_BFP16:
      return reduce_as<Bfloat16>(out, parts, count, operation);
    case HCCL_DATA_TYPE_INT8:
      return reduce_as<Plain<int8_t>>(out, parts, count, operation);
    case HCCL_DATA_TYPE_UINT8:
      return reduce_as<Plain<uint8_t>>(out, parts, count, operation);
    case HCCL_DATA_TYPE_INT16:
      return reduce_as<Plain<int16_t>>(out, parts, count, operation);
    case HCCL_DATA_TYPE_INT32:
      return reduce_as<Plain<int32_t>>(out, parts, count, operation);
    case HCCL_DATA_TYPE_INT64:
      return reduce_as<Plain<int64_t>>(out, parts, count, operation);
    default:
      complain("a reduction of HCCL data type %d is not emulated", static_cast<int>(type));
      return false;
  }
}

}  // namespace fakecann
