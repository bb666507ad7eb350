// Operators: tensor descriptions, and the one operator that is C++: Identity, which copies and
// converts between ND and FRACTAL_NZ. Every other one is refused with its name. What computes runs
// in Python before it gets here: see ../../python.
#include "../fakecann.h"
#include "formats.h"

#include <acl/acl_op_compiler.h>

#include <cstring>

struct aclTensorDesc {
  aclDataType type;
  aclFormat format;
  // As the program sees it; then as it lies in memory, where that was said.
  std::vector<int64_t> shape;
  aclFormat stored_format = ACL_FORMAT_UNDEFINED;
  std::vector<int64_t> stored_shape = {};
};

struct aclDataBuffer {
  void *address;
  size_t bytes;
};

namespace fakecann {
namespace {

bool is_fractal(const aclTensorDesc &tensor) {
  return tensor.stored_format == ACL_FORMAT_FRACTAL_NZ;
}

size_t bytes_of(const aclTensorDesc &tensor) {
  size_t bytes = aclDataTypeSize(tensor.type);
  for (const int64_t length : tensor.shape) bytes *= static_cast<size_t>(length);
  return bytes;
}

int refuse(const char *name, const char *why) {
  complain("operator %s is not emulated%s%s", name, *why == '\0' ? "" : ": ", why);
  return ACL_ERROR_OP_NOT_FOUND;
}

int copy_or_convert(const aclTensorDesc &from, const aclDataBuffer &source, const aclTensorDesc &to,
                    const aclDataBuffer &target, aclrtStream stream) {
  const size_t element = aclDataTypeSize(to.type);
  if (element == 0 || from.type != to.type) return refuse("Identity", "between these types");
  if (from.shape != to.shape) return refuse("Identity", "between these shapes");
  const bool converts = is_fractal(from) != is_fractal(to);
  size_t read = bytes_of(from);
  size_t written = bytes_of(to);
  Fractal fractal = {};
  if (is_fractal(from) || is_fractal(to)) {
    if (to.shape.size() < 2) return refuse("Identity", "FRACTAL_NZ of less than two dimensions");
    fractal = Fractal::of(to.shape, is_fractal(to) ? to.stored_shape : from.stored_shape, element);
    if (fractal.across == 0) return refuse("Identity", "FRACTAL_NZ of these blocks");
    if (is_fractal(from)) read = fractal.fractal_bytes();
    if (is_fractal(to)) written = fractal.fractal_bytes();
  }
  if (read > source.bytes || written > target.bytes) {
    complain("Identity reads %zu of %zu bytes and writes %zu of %zu", read, source.bytes, written,
             target.bytes);
    return ACL_ERROR_INVALID_PARAM;
  }
  if (!within_device_memory("Identity reads", source.address, read)) return ACL_ERROR_INVALID_PARAM;
  if (!within_device_memory("Identity writes", target.address, written)) {
    return ACL_ERROR_INVALID_PARAM;
  }
  char *const out = static_cast<char *>(target.address);
  const char *const in = static_cast<const char *>(source.address);
  const bool to_fractal = is_fractal(to);
  return put_on_stream(stream, [=] {
    if (!converts) {
      std::memmove(out, in, written);
    } else if (to_fractal) {
      fractal.from_plain(out, in);
    } else {
      fractal.to_plain(out, in);
    }
    return 0;
  });
}

int run(const char *name, int inputs, const aclTensorDesc *const from[],
        const aclDataBuffer *const sources[], int outputs, const aclTensorDesc *const to[],
        const aclDataBuffer *const targets[], aclrtStream stream) {
  trace("operator %s", name);
  if (std::strcmp(name, "Identity") != 0) return refuse(name, "");
  if (inputs < 1 || outputs != 1 || sources[0] == nullptr || targets[0] == nullptr) {
    return refuse(name, "with these arguments");
  }
  return copy_or_convert(*from[0], *sources[0], *to[0], *targets[0], stream);
}

}  // namespace
}  // namespace fakecann

extern "C" {

// --- tensors

aclTensorDesc *aclCreateTensorDesc(aclDataType type, int dimensions, const int64_t *shape,
                                   aclFormat format) {
  return new aclTensorDesc{type, format, std::vector<int64_t>(shape, shape + dimensions)};
}

void aclDestroyTensorDesc(const aclTensorDesc *tensor) { delete tensor; }

aclError aclSetTensorFormat(aclTensorDesc *tensor, aclFormat format) {
  tensor->stored_format = format;
  return ACL_SUCCESS;
}

aclError aclSetTensorShape(aclTensorDesc *tensor, int dimensions, const int64_t *shape) {
  tensor->stored_shape.assign(shape, shape + dimensions);
  return ACL_SUCCESS;
}

aclError aclSetTensorPlaceMent(aclTensorDesc *, aclMemType) { return ACL_SUCCESS; }

void aclSetTensorDescName(aclTensorDesc *, const char *) {}

aclDataType aclGetTensorDescType(const aclTensorDesc *tensor) { return tensor->type; }

aclFormat aclGetTensorDescFormat(const aclTensorDesc *tensor) { return tensor->format; }

size_t aclGetTensorDescNumDims(const aclTensorDesc *tensor) { return tensor->shape.size(); }

aclError aclGetTensorDescDimV2(const aclTensorDesc *tensor, size_t index, int64_t *length) {
  if (index >= tensor->shape.size()) return ACL_ERROR_INVALID_PARAM;
  *length = tensor->shape[index];
  return ACL_SUCCESS;
}

aclDataBuffer *aclCreateDataBuffer(void *address, size_t bytes) {
  return new aclDataBuffer{address, bytes};
}

aclError aclDestroyDataBuffer(const aclDataBuffer *buffer) {
  delete buffer;
  return ACL_SUCCESS;
}

size_t aclDataTypeSize(aclDataType type) {
  switch (type) {
    case ACL_BOOL:
    case ACL_INT8:
    case ACL_UINT8:
    case ACL_HIFLOAT8:
    case ACL_FLOAT8_E5M2:
    case ACL_FLOAT8_E4M3FN:
    case ACL_FLOAT8_E8M0:
      return 1;
    case ACL_FLOAT16:
    case ACL_BF16:
    case ACL_INT16:
    case ACL_UINT16:
      return 2;
    case ACL_FLOAT:
    case ACL_INT32:
    case ACL_UINT32:
      return 4;
    case ACL_DOUBLE:
    case ACL_INT64:
    case ACL_UINT64:
    case ACL_COMPLEX64:
      return 8;
    default:
      fakecann::complain("data type %d is not emulated", static_cast<int>(type));
      return 0;
  }
}

// --- running one

aclError aclopCompileAndExecute(const char *name, int inputs, const aclTensorDesc *const from[],
                                const aclDataBuffer *const sources[], int outputs,
                                const aclTensorDesc *const to[], aclDataBuffer *const targets[],
                                const aclopAttr *, aclopEngineType, aclopCompileType, const char *,
                                aclrtStream stream) {
  return fakecann::run(name, inputs, from, sources, outputs, to, targets, stream);
}

aclError aclopCompileAndExecuteV2(const char *name, int inputs, aclTensorDesc *from[],
                                  aclDataBuffer *sources[], int outputs, aclTensorDesc *to[],
                                  aclDataBuffer *targets[], aclopAttr *, aclopEngineType,
                                  aclopCompileType, const char *, aclrtStream stream) {
  return fakecann::run(name, inputs, from, sources, outputs, to, targets, stream);
}

// Attributes are not read: Identity has none.
aclopAttr *aclopCreateAttr() { return reinterpret_cast<aclopAttr *>(new char); }

void aclopDestroyAttr(const aclopAttr *attribute) {
  delete reinterpret_cast<const char *>(attribute);
}
}
