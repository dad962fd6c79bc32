#pragma once

#include <poll.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <distil_xlstm/comm/communication_error.hpp>
#include <distil_xlstm/comm/host_exchange.hpp>
#include <distil_xlstm/comm/tcp_session.hpp>
#include <distil_xlstm/comm/watch.hpp>
#include <distil_xlstm/core/extent.hpp>

namespace distil_xlstm::comm {

/// Processes that are connected with rank 0 (comm/tcp_session.hpp): all that they exchange goes through it, added up in
/// the order of ranks. It needs no library, and is for few numbers: what GPUs agree on beside NCCL's sums, and students
/// that are small. Where gradients are large, `comm::mpi` is faster.
///
/// One thread at a time uses it. After a `communication_error` the process can but end.
class tcp : public host_exchange<tcp> {
 public:
  /// All ranks make it. Refers to `session`, one of whose connections of each rank it has for itself.
  explicit tcp(tcp_session& session, tcp_session::use use = tcp_session::use::exchange,
               message_sizes sizes = {})
      : host_exchange(sizes), session_(&session), use_(use) {}

  /// @name What every communicator has
  /// @{

  /// As the concept `Communicator` says.
  index rank() const { return session_->rank(); }
  index size() const { return session_->size(); }
  /// @}

 private:
  friend class host_exchange<tcp>;

  template <class T>
  void sum_bucket(T* p, index n) {
    const waiting counted(*this);
    const index bytes = n * static_cast<index>(sizeof(T));
    if (rank() > 0) {
      send(0, p, bytes), receive(0, p, bytes);
      return;
    }
    T* more = received<T>(n);
    for (index r = 1; r < size(); ++r) receive(r, more, bytes), add(p, more, n);
    for (index r = 1; r < size(); ++r) send(r, p, bytes);
  }
  void send_all(void* p, index bytes, index root) {
    const waiting counted(*this);
    if (rank() > 0) {
      if (rank() == root)
        send(0, p, bytes);
      else
        receive(0, p, bytes);
      return;
    }
    if (root > 0) receive(root, p, bytes);
    for (index r = 1; r < size(); ++r)
      if (r != root) send(r, p, bytes);
  }
  template <class Start>
  void gather_all(void* p, const Start& start) {
    const waiting counted(*this);
    auto* at = static_cast<std::byte*>(p) - start(0);
    const auto bytes = [&](index r) { return start(r + 1) - start(r); };
    if (rank() > 0) {
      send(0, at + start(rank()), bytes(rank()));
      receive(0, p, start(size()) - start(0));
      return;
    }
    for (index r = 1; r < size(); ++r) receive(r, at + start(r), bytes(r));
    for (index r = 1; r < size(); ++r) send(r, p, start(size()) - start(0));
  }

  void send(index to, const void* p, index bytes) {
    const auto& s = session_->socket(use_, to);
    move(to, POLLOUT, bytes,
         [&](index done) { return s.send_some(static_cast<const std::byte*>(p) + done, bytes - done); });
  }
  void receive(index from, void* p, index bytes) {
    const auto& s = session_->socket(use_, from);
    move(from, POLLIN, bytes,
         [&](index done) { return s.receive_some(static_cast<std::byte*>(p) + done, bytes - done); });
  }
  template <class Some>
  void move(index other, short what, index bytes, const Some& some) {
    const auto& s = session_->socket(use_, other);
    for (index done = 0; done < bytes;) {
      const index n = some(done);
      if (n < 0)
        throw communication_error("rank " + std::to_string(other) + " of " + std::to_string(size()) +
                                  gone_without_a_word);
      done += n;
      if (n > 0) continue;
      throw_if_stopped();
      s.ready(what, 100);
    }
  }

  tcp_session* session_;
  tcp_session::use use_;
};

/// Signs of life over the connections of a `tcp_session` that are for them.
class tcp_signs : public sign_channel {
 public:
  /// Refers to `session`.
  explicit tcp_signs(tcp_session& session)
      : session_(&session), peers_(static_cast<std::size_t>(session.size())) {}

  /// @{ As `sign_channel` says.
  bool post(index to, sign_of_life said) override {
    peer& p = at(to);
    if (p.closed || !posted(to)) return false;
    p.sending = said, p.unsent = static_cast<index>(sizeof said);
    posted(to);
    return !p.closed;
  }
  bool take(index from, sign_of_life& said) override {
    peer& p = at(from);
    if (p.closed) return false;
    const index n = session_->socket(tcp_session::use::signs, from)
                        .receive_some(bytes(p.coming) + p.come, static_cast<index>(sizeof said) - p.come);
    if (n < 0) p.closed = true;
    p.come += std::max<index>(0, n);
    if (p.come < static_cast<index>(sizeof said)) return false;
    said = p.coming, p.come = 0;
    return true;
  }
  bool posted(index to) override {
    peer& p = at(to);
    if (p.closed || p.unsent == 0) return true;
    const index n = session_->socket(tcp_session::use::signs, to)
                        .send_some(bytes(p.sending) + sizeof p.sending - p.unsent, p.unsent);
    if (n < 0) p.closed = true;
    p.unsent -= std::max<index>(0, n);
    return p.unsent == 0;
  }
  bool closed(index from) const override { return peers_[static_cast<std::size_t>(from)].closed; }
  /// @}

 private:
  struct peer {
    sign_of_life sending{}, coming{};
    index unsent = 0, come = 0;
    bool closed = false;
  };
  static std::byte* bytes(sign_of_life& said) { return reinterpret_cast<std::byte*>(&said); }
  peer& at(index rank) { return peers_[static_cast<std::size_t>(rank)]; }
  tcp_session* session_;
  std::vector<peer> peers_;
};

}  // namespace distil_xlstm::comm
