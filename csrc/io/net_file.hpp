// Nets as safetensors files (github.com/huggingface/safetensors): eight bytes of header length, little-endian; a JSON
// header name -> {dtype, shape, data_offsets}; then the packed tensors in little-endian byte order. The architecture is
// JSON in the header's "__metadata__", under "gradcore". Tensors are written in the order of their names and read in
// any order.
//
// Nothing that is read is trusted. Before a net is created, every length, name, shape and offset is checked, and the
// tensors of the architecture must fill the file exactly.
#ifndef GRADCORE_IO_NET_FILE_HPP
#define GRADCORE_IO_NET_FILE_HPP

#include <string>

#include "network/network.hpp"

namespace gradcore {

// Everything before the tensors: length, JSON, padding.
std::string net_file_head(const Network &net);
// Bytes of head and tensors together.
index net_file_size(const Network &net, const std::string &head);

using WriteBytes = FunctionRef<gradcore_status(const void *data, std::size_t size)>;
using ReadBytes = FunctionRef<gradcore_status(void *data, std::size_t size)>;
using MakeNetwork = FunctionRef<Network *(const gradcore_net_config &config)>;

gradcore_status write_net(const Network &net, const std::string &head, WriteBytes write);

// Reads a file of `size` bytes from its start. make() is called once, with a checked configuration; the net belongs to
// its caller and is unusable unless the result is GRADCORE_OK. May throw std::bad_alloc.
gradcore_status read_net(index size, ReadBytes read, MakeNetwork make);

// The state of an optimizer: kind and step in the metadata, under "gradcore_optimizer", and state vectors as
// "state0.dense0.weight", .... It is read into an optimizer of the same kind and net shapes, which an error leaves
// unchanged. Both functions may throw std::bad_alloc.
gradcore_status write_optimizer(const NetOptimizer &optimizer, WriteBytes write);
gradcore_status read_optimizer(index size, ReadBytes read, NetOptimizer &optimizer);

}  // namespace gradcore

#endif
