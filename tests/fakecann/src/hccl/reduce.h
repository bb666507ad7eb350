// Reductions: what an all_reduce does to the elements of two ranks.
#pragma once

#include <third_party/hccl/inc/hccl/hccl_types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fakecann {

// 0 for a type that is not emulated.
size_t element_bytes(HcclDataType type);

// Reduces `parts` (one for each rank, in the order of ranks) into `out`. Half floats are summed as
// floats and rounded once. Returns whether the type and the operation are emulated.
bool reduce(void *out, const std::vector<const char *> &parts, uint64_t count, HcclDataType type,
            HcclReduceOp operation);

}  // namespace fakecann
