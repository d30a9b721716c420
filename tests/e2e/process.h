// A program under test: started with pipes, watched line by line up to a deadline, killed at the end.
#ifndef HOLDFAST_TESTS_E2E_PROCESS_H_
#define HOLDFAST_TESTS_E2E_PROCESS_H_

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace holdfast::e2e {

using Clock = std::chrono::steady_clock;

// How long anything that must happen may take before a test gives up: long, because it is only ever
// waited for by a test that fails, and machines under sanitizers are slow.
inline constexpr std::chrono::seconds kPatience{30};

inline std::string Program(std::string_view name) {
  const char* const directory = std::getenv("HOLDFAST_BIN");
  return std::string(directory == nullptr ? "build/bin" : directory).append("/").append(name);
}

inline std::string InRepository(std::string_view path) {
  const char* const root = std::getenv("HOLDFAST_ROOT");
  return std::string(root == nullptr ? "." : root).append("/").append(path);
}

class Process {
 public:
  enum class Input { kNothing, kPipe };

  // Starts `arguments` (the program first). `input_fd`, if not -1, becomes its standard input.
  explicit Process(const std::vector<std::string>& arguments, Input input = Input::kNothing,
                   int input_fd = -1) {
    std::array<int, 2> in{-1, -1};
    std::array<int, 2> out{};
    std::array<int, 2> err{};
    if (input == Input::kPipe && pipe2(in.data(), O_CLOEXEC) != 0) std::abort();
    if (pipe2(out.data(), O_CLOEXEC) != 0 || pipe2(err.data(), O_CLOEXEC) != 0) std::abort();
    std::vector<char*> argv;
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);  // A test that crashes kills nobody in its destructors.
      const int from = input_fd >= 0           ? input_fd
                       : input == Input::kPipe ? in[0]
                                               : open("/dev/null", O_RDONLY | O_CLOEXEC);
      dup2(from, STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      dup2(err[1], STDERR_FILENO);
      execv(argv[0], argv.data());
      _exit(127);
    }
    if (in[0] >= 0) close(in[0]);
    close(out[1]);
    close(err[1]);
    in_ = in[1];
    out_ = out[0];
    err_ = err[0];
  }

  ~Process() {
    if (!status_) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    CloseInput();
    close(out_);
    close(err_);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  void Signal(int signal) const { kill(pid_, signal); }

  // Writes all of it; a reader that is gone is no error here.
  void Write(std::string_view text) {
    std::signal(SIGPIPE, SIG_IGN);
    while (!text.empty()) {
      const ssize_t size = write(in_, text.data(), text.size());
      if (size <= 0) return;
      text.remove_prefix(static_cast<std::size_t>(size));
    }
  }
  void CloseInput() {
    if (in_ >= 0) close(in_);
    in_ = -1;
  }

  // The next line of standard output, without its newline; nullopt at its end or at the deadline.
  std::optional<std::string> Line(Clock::time_point deadline) {
    while (lines_.empty() && !out_ended_) {
      if (!Gather(deadline)) return std::nullopt;
    }
    if (lines_.empty()) return std::nullopt;
    std::string line = std::move(lines_.front());
    lines_.pop_front();
    return line;
  }

  // The exit status, or 128 + the signal; nullopt when it does not end in time. Reads what it still
  // writes, so that it never hangs on a full pipe.
  std::optional<int> Wait(Clock::time_point deadline = Clock::now() + kPatience) {
    while (!out_ended_ || !err_ended_) {
      if (!Gather(deadline)) return std::nullopt;
    }
    if (!status_) {
      // Both pipes are closed: it is ending.
      int status = 0;
      if (waitpid(pid_, &status, 0) != pid_) return std::nullopt;
      status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return status_;
  }

  // Kills it and waits until it is gone.
  void Kill() {
    Signal(SIGKILL);
    Wait();
  }

  // Standard output so far, of which Line() may have taken lines already; and standard error.
  [[nodiscard]] const std::string& output() const { return output_; }
  [[nodiscard]] const std::string& errors() const { return errors_; }

 private:
  // Waits for output and takes it; false at the deadline.
  bool Gather(Clock::time_point deadline) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    std::array<pollfd, 2> fds{{{.fd = out_ended_ ? -1 : out_, .events = POLLIN, .revents = 0},
                               {.fd = err_ended_ ? -1 : err_, .events = POLLIN, .revents = 0}}};
    const int ready = poll(fds.data(), fds.size(), static_cast<int>(std::max<long>(left, 0)));
    if (ready < 0) return errno == EINTR;
    if (ready == 0) return false;
    std::string text;
    if (fds[0].revents != 0) {
      out_ended_ = !Take(out_, text);
      output_ += text;
      partial_ += text;
      for (std::size_t end = 0; (end = partial_.find('\n')) != std::string::npos;) {
        lines_.push_back(partial_.substr(0, end));
        partial_.erase(0, end + 1);
      }
    }
    if (fds[1].revents != 0) err_ended_ = !Take(err_, errors_);
    return true;
  }

  static bool Take(int fd, std::string& to) {
    std::array<char, 65536> buffer;
    const ssize_t size = read(fd, buffer.data(), buffer.size());
    if (size <= 0) return size < 0 && errno == EINTR;
    to.append(buffer.data(), static_cast<std::size_t>(size));
    return true;
  }

  pid_t pid_ = -1;
  int in_ = -1;
  int out_ = -1;
  int err_ = -1;
  bool out_ended_ = false;
  bool err_ended_ = false;
  std::optional<int> status_;
  std::string output_;
  std::string errors_;
  std::string partial_;
  std::deque<std::string> lines_;
};

}  // namespace holdfast::e2e

#endif  // HOLDFAST_TESTS_E2E_PROCESS_H_
