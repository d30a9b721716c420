// A part of a test that runs in a child of fork(2), and what it has to say.
//
// The child shares the test's memory as it was, and none of its expectations: it answers in words, "" where
// all is well, and ends without running anything of the parent's (_exit). It is ended after 20 s.
#ifndef HOLDFAST_TESTS_EDGES_IN_CHILD_H_
#define HOLDFAST_TESTS_EDGES_IN_CHILD_H_

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "net/net_fixture.h"

namespace holdfast::test {

// Waits for the child: the parent's reactor does not turn meanwhile.
inline std::string InChild(const std::function<std::string()>& part) {
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return "no pipe";
  Fd reader(pipe_fds[0]);
  Fd writer(pipe_fds[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::alarm(20);
    reader.Reset();
    const std::string answer = part();
    const ssize_t written = ::write(writer.get(), answer.data(), answer.size());
    ::_exit(written == static_cast<ssize_t>(answer.size()) ? 0 : 1);
  }
  if (child < 0) return "no child";
  writer.Reset();
  std::string answer;
  char buffer[4096];
  for (ssize_t size = 0; (size = ::read(reader.get(), buffer, sizeof(buffer))) > 0;) {
    answer.append(buffer, static_cast<std::size_t>(size));
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) answer += " killed by signal " + std::to_string(WTERMSIG(status));
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) {
    answer += " ended with status " + std::to_string(WEXITSTATUS(status));
  }
  return answer;
}

// What a child has to say, one sentence for each thing that is not as it should be.
class Complaints {
 public:
  void Expect(bool holds, const std::string& what) {
    if (!holds) text_ += (text_.empty() ? "" : "; ") + what;
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace holdfast::test

#endif  // HOLDFAST_TESTS_EDGES_IN_CHILD_H_
