#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <distil_xlstm/comm/communication_error.hpp>
#include <distil_xlstm/core/error.hpp>
#include <distil_xlstm/core/extent.hpp>
#include <distil_xlstm/core/hash.hpp>

namespace distil_xlstm::comm {

/// How a rank finds the others: what torchrun and its like tell a process in its environment.
struct tcp_place {
  index rank = 0;                  ///< RANK
  index size = 1;                  ///< WORLD_SIZE
  std::string host = "127.0.0.1";  ///< MASTER_ADDR: of rank 0's machine, a name or a number
  int port = 29500;                ///< MASTER_PORT, or where that is in use one of the next
  int ports = 10;                  ///< how many are tried
  int listening = -1;     ///< of rank 0: a socket that listens already, in place of a port; it is closed
  std::string run = {};   ///< what the ranks of one run have in common, and others do not; may be empty
  double patience = 120;  ///< seconds in which all must have come
};

namespace detail {

/// A socket that does not wait, closed at the end.
class tcp_socket {
 public:
  tcp_socket() = default;
  explicit tcp_socket(int handle) : handle_(handle) {
    if (handle < 0) return;
    ::fcntl(handle, F_SETFD, FD_CLOEXEC);
    ::fcntl(handle, F_SETFL, ::fcntl(handle, F_GETFL) | O_NONBLOCK);
  }
  tcp_socket(tcp_socket&& other) noexcept : handle_(std::exchange(other.handle_, -1)) {}
  tcp_socket& operator=(tcp_socket&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~tcp_socket() {
    if (handle_ >= 0) ::close(handle_);
  }
  int handle() const { return handle_; }
  explicit operator bool() const { return handle_ >= 0; }
  /// Without delay, and noticed where the other machine is gone.
  void tune() const {
    const int on = 1;
    ::setsockopt(handle_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::setsockopt(handle_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  }
  /// Whether it can be read or written (POLLIN, POLLOUT), or is broken, within so long.
  bool ready(short what, int milliseconds) const {
    pollfd p{handle_, what, 0};
    return ::poll(&p, 1, milliseconds) > 0;
  }
  /// How many bytes of at most `bytes` went out now; -1: none ever will.
  index send_some(const void* p, index bytes) const {
#if defined(MSG_NOSIGNAL)
    constexpr int quiet = MSG_NOSIGNAL;
#else
    constexpr int quiet = 0;
#endif
    const auto n = ::send(handle_, p, static_cast<std::size_t>(bytes), quiet);
    return n >= 0 ? static_cast<index>(n) : again() ? 0 : -1;
  }
  /// How many came; -1: none ever will.
  index receive_some(void* p, index bytes) const {
    const auto n = ::recv(handle_, p, static_cast<std::size_t>(bytes), 0);
    return n > 0 ? static_cast<index>(n) : n < 0 && again() ? 0 : -1;
  }
  /// The other end has not closed it.
  bool open() const {
    char next;
    const auto n = ::recv(handle_, &next, 1, MSG_PEEK);
    return n > 0 || (n < 0 && again());
  }

 private:
  static bool again() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }
  int handle_ = -1;
};

}  // namespace detail

/// The connections of a run's processes, each rank's with rank 0: three, for what they exchange, for how each ends, and
/// for signs of life. A rank may come before rank 0 does; one of another run, or another program's, is turned away.
class tcp_session {
 public:
  /// What a connection is for.
  enum class use : std::uint32_t { exchange, ending, signs };

  /// All ranks make it. Throws `communication_error` where they do not find each other in time, and names who is
  /// missing.
  explicit tcp_session(tcp_place place) : place_(std::move(place)) {
    detail::tcp_socket given(place_.listening);
    if (place_.port < 1 || place_.ports < 1 || place_.port > 65536 - place_.ports)
      fail({"port ", place_.port, " is not possible"});
    if (place_.size < 1 || place_.rank < 0 || place_.rank >= place_.size)
      fail({"rank ", place_.rank, " of ", place_.size, " is not possible"});
    for (auto& sockets : sockets_) sockets.resize(static_cast<std::size_t>(place_.rank == 0 ? place_.size : 1));
    until_ = clock::now() +
             std::chrono::duration_cast<clock::duration>(std::chrono::duration<double>(place_.patience));
    if (place_.size == 1) return;
    if (place_.rank == 0)
      gather(given ? std::move(given) : listening());
    else
      for (const use u : uses) connect(u);
  }
  tcp_session(const tcp_session&) = delete;
  tcp_session& operator=(const tcp_session&) = delete;

  index rank() const { return place_.rank; }  ///< this one's
  index size() const { return place_.size; }  ///< how many there are
  /// @cond
  /// To `rank`: of rank 0 any other, of another rank 0.
  detail::tcp_socket& socket(use u, index rank) {
    return sockets_[static_cast<std::size_t>(u)][static_cast<std::size_t>(place_.rank == 0 ? rank : 0)];
  }
  /// @endcond

  /// A socket of this machine that listens at a port of the system's choice, and that port: for who starts processes
  /// and gives the first `tcp_place::listening`.
  static std::pair<int, int> listen_here() {
    sockaddr_in at{};
    at.sin_family = AF_INET, at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t n = sizeof at;
    const int s = ::socket(AF_INET, SOCK_STREAM, 0);
    if (s < 0 || ::bind(s, reinterpret_cast<sockaddr*>(&at), sizeof at) != 0 || ::listen(s, 1024) != 0 ||
        ::getsockname(s, reinterpret_cast<sockaddr*>(&at), &n) != 0) {
      const std::string why = std::strerror(errno);
      if (s >= 0) ::close(s);
      fail({"no port to listen at: ", why});
    }
    return {s, ntohs(at.sin_port)};
  }

 private:
  using clock = std::chrono::steady_clock;
  static constexpr std::array uses = {use::exchange, use::ending, use::signs};
  /// How a rank's first words begin, and the answer: another, so that an echo is none.
  static constexpr std::uint64_t magic = 0x317378656c786c64, answers = 0x327378656c786c64;
  struct hello {
    std::uint64_t word = magic, run = 0;
    std::uint32_t size = 0, rank = 0, use = 0, unused = 0;
  };
  /// Who has connected, and may not have said yet who it is.
  struct caller {
    detail::tcp_socket socket;
    hello said{};
    index come = 0;  ///< bytes of it
    clock::time_point since = clock::now();
  };
  enum class verdict : std::uint32_t { welcome, another_run, another_size, no_such_rank, there_already };
  struct answer {
    std::uint64_t word = answers;
    verdict said = verdict::welcome;
    std::uint32_t size = 0;
  };

  [[noreturn]] static void fail(std::initializer_list<distil_xlstm::detail::message_part> parts) {
    std::string text;
    for (const auto& part : parts) part.append_to(text);
    throw communication_error(text);
  }
  std::uint64_t run() const {
    fnv_hash hash;
    hash.add(place_.run);
    return hash.value();
  }
  std::string where() const { return place_.host + ":" + std::to_string(place_.port); }
  bool late() const { return clock::now() >= until_; }

  /// All of p within so many seconds; false: not, or another came to its end.
  static bool receive(const detail::tcp_socket& s, void* p, index bytes, double seconds) {
    const auto until = clock::now() + std::chrono::duration<double>(seconds);
    for (index done = 0; done < bytes;) {
      const index n = s.receive_some(static_cast<std::byte*>(p) + done, bytes - done);
      if (n < 0 || (n == 0 && clock::now() >= until)) return false;
      if (n == 0) s.ready(POLLIN, 50);
      done += n;
    }
    return true;
  }
  static bool send(const detail::tcp_socket& s, const void* p, index bytes) {
    return s.send_some(p, bytes) == bytes;  // a few bytes into an empty buffer
  }

  detail::tcp_socket listening() const {
    for (int i = 0; i < place_.ports; ++i) {
      // IPv6 takes IPv4's, too, where there is any.
      for (const int family : {AF_INET6, AF_INET}) {
        detail::tcp_socket s(::socket(family, SOCK_STREAM, 0));
        if (!s) continue;
        const int on = 1, off = 0;
        ::setsockopt(s.handle(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        sockaddr_in6 six{};
        sockaddr_in four{};
        const auto port = htons(static_cast<std::uint16_t>(place_.port + i));
        six.sin6_family = AF_INET6, six.sin6_addr = in6addr_any, six.sin6_port = port;
        four.sin_family = AF_INET, four.sin_addr.s_addr = htonl(INADDR_ANY), four.sin_port = port;
        if (family == AF_INET6) ::setsockopt(s.handle(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
        const auto* at = family == AF_INET6 ? reinterpret_cast<const sockaddr*>(&six)
                                            : reinterpret_cast<const sockaddr*>(&four);
        if (::bind(s.handle(), at, family == AF_INET6 ? sizeof six : sizeof four) == 0 &&
            ::listen(s.handle(), 1024) == 0)
          return s;
        if (errno == EADDRINUSE) break;
      }
    }
    fail({"rank 0 cannot listen at port ", place_.port, " nor at the next ", place_.ports - 1, ": ",
          std::strerror(errno)});
  }

  void gather(const detail::tcp_socket& listener) {
    std::vector<caller> callers;
    for (index missing = static_cast<index>(uses.size()) * (place_.size - 1); missing > 0;) {
      if (late()) fail({missing_ranks(), " within ", place_.patience, " s to ", where()});
      listener.ready(POLLIN, callers.empty() ? 100 : 1);
      while (detail::tcp_socket s{::accept(listener.handle(), nullptr, nullptr)})
        callers.push_back({.socket = std::move(s)});
      if (errno == EMFILE || errno == ENFILE)
        fail({"rank 0 needs ", static_cast<index>(uses.size()) * (place_.size - 1),
              " connections: ", std::strerror(errno)});
      for (caller& c : callers) {
        constexpr auto all = static_cast<index>(sizeof(hello));
        const index n = c.socket.receive_some(reinterpret_cast<std::byte*>(&c.said) + c.come, all - c.come);
        c.come += std::max<index>(0, n);
        const bool whole = c.come == all;
        if (whole && c.said.word == magic) missing -= accepted(c);
        if (whole || n < 0 || clock::now() - c.since > std::chrono::seconds(2)) c.socket = {};
      }
      std::erase_if(callers, [](const caller& c) { return !c.socket; });
    }
  }
  /// Answers a rank and keeps its connection; true where this rank had none for this use, not even one
  /// that is broken.
  bool accepted(caller& c) {
    answer a{.size = static_cast<std::uint32_t>(place_.size)};
    detail::tcp_socket* own = nullptr;
    if (c.said.run != run())
      a.said = verdict::another_run;
    else if (static_cast<index>(c.said.size) != place_.size)
      a.said = verdict::another_size;
    else if (c.said.rank == 0 || static_cast<index>(c.said.rank) >= place_.size || c.said.use >= uses.size())
      a.said = verdict::no_such_rank;
    else if (own = &socket(static_cast<use>(c.said.use), c.said.rank); *own && own->open())
      a.said = verdict::there_already;
    c.socket.tune();
    // One that has waited too long for the answer has closed this connection, and comes again.
    if (!c.socket.open() || !send(c.socket, &a, sizeof a) || a.said != verdict::welcome) return false;
    const bool first = !*own;
    *own = std::move(c.socket);
    return first;
  }
  std::string missing_ranks() {
    std::string text;
    for (index r = 1; r < place_.size; ++r)
      if (std::any_of(uses.begin(), uses.end(), [&](use u) { return !socket(u, r); }))
        text += (text.empty() ? "" : ", ") + std::to_string(r);
    const bool one = text.find(',') == std::string::npos;
    return (one ? "rank " : "ranks ") + text + " of " + std::to_string(place_.size) +
           (one ? " has not come" : " have not come");
  }

  void connect(use u) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    std::string last = "nothing answers";
    // Once rank 0 is found at a port, the next connections go there alone.
    for (int i = 0;; i = (i + 1) % place_.ports) {
      const std::string port = std::to_string(place_.port + i);
      addrinfo* list = nullptr;
      if (const int code = ::getaddrinfo(place_.host.c_str(), port.c_str(), &hints, &list); code != 0)
        last = ::gai_strerror(code), list = nullptr;
      const std::unique_ptr<addrinfo, void (*)(addrinfo*)> found(list, ::freeaddrinfo);
      bool welcome = false;
      for (const addrinfo* a = list; a && !welcome; a = a->ai_next) welcome = come(u, *a, last);
      if (welcome) {
        place_.port += i, place_.ports = 1;
        return;
      }
      if (late())
        fail({"rank ", place_.rank, " of ", place_.size, " does not find rank 0 at ", where(), " within ",
              place_.patience, " s: ", last});
      if (i + 1 == place_.ports) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
  /// Whether this rank is welcome there.
  bool come(use u, const addrinfo& at, std::string& last) {
    detail::tcp_socket s(::socket(at.ai_family, at.ai_socktype, at.ai_protocol));
    if (!s) return false;
    if (::connect(s.handle(), at.ai_addr, at.ai_addrlen) != 0 && errno != EINPROGRESS) {
      last = std::strerror(errno);
      return false;
    }
    int code = 0;
    socklen_t n = sizeof code;
    if (!s.ready(POLLOUT, 2000) || ::getsockopt(s.handle(), SOL_SOCKET, SO_ERROR, &code, &n) != 0 ||
        code != 0) {
      last = code ? std::strerror(code) : "no answer";
      return false;
    }
    s.tune();
    const hello said{.run = run(),
                     .size = static_cast<std::uint32_t>(place_.size),
                     .rank = static_cast<std::uint32_t>(place_.rank),
                     .use = static_cast<std::uint32_t>(u)};
    answer got;
    if (!send(s, &said, sizeof said) || !receive(s, &got, sizeof got, 5) || got.word != answers) {
      last = "what listens there is another program";
      return false;
    }
    switch (got.said) {
      case verdict::welcome: socket(u, 0) = std::move(s); return true;
      case verdict::another_run: last = "what listens there is another run"; return false;
      case verdict::another_size:
        fail({"rank 0 is one of ", got.size, ", rank ", place_.rank, " of ", place_.size});
      default: fail({"rank ", place_.rank, " of ", place_.size, " is there already"});
    }
  }

  tcp_place place_;
  clock::time_point until_;
  std::array<std::vector<detail::tcp_socket>, uses.size()> sockets_;
};

}  // namespace distil_xlstm::comm
