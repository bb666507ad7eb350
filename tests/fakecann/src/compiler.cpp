// libacl_op_compiler.so: there is no compiler; its options are remembered nowhere.
#include <acl/acl.h>
#include <acl/acl_op_compiler.h>

#include <cstring>

extern "C" {

aclError aclSetCompileopt(aclCompileOpt, const char *) { return ACL_SUCCESS; }

size_t aclGetCompileoptSize(aclCompileOpt) { return sizeof "disable"; }

aclError aclGetCompileopt(aclCompileOpt, char *value, size_t room) {
  std::strncpy(value, "disable", room);
  return ACL_SUCCESS;
}

aclError aclrtSetSysParamOpt(aclSysParamOpt, int64_t) { return ACL_SUCCESS; }

aclError aclrtCtxSetSysParamOpt(aclSysParamOpt, int64_t) { return ACL_SUCCESS; }

aclError aclrtGetSysParamOpt(aclSysParamOpt, int64_t *value) {
  *value = 0;
  return ACL_SUCCESS;
}
}
