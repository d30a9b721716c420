// A system call that fails from now on, as in a sandbox: seccomp(2).
#ifndef HOLDFAST_TESTS_SUPPORT_FAIL_CALL_H_
#define HOLDFAST_TESTS_SUPPORT_FAIL_CALL_H_

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include <cstddef>

namespace holdfast::internal {

// From now on a system call answers this error on the calling thread. False where seccomp(2) is not
// allowed.
inline bool FailCall(unsigned call, int error) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K,
               SECCOMP_RET_ERRNO | (static_cast<unsigned>(error) & SECCOMP_RET_DATA)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog filter{};
  filter.len = sizeof(program) / sizeof(program[0]);
  filter.filter = program;
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

}  // namespace holdfast::internal

#endif  // HOLDFAST_TESTS_SUPPORT_FAIL_CALL_H_
