#include "apps/commands/onnx_file.h"

#include "data/bytes.h"
#include "engine/check.h"

#ifdef VVTQ_HAS_ONNX
#include <onnx/onnx_pb.h>
#endif

namespace vvtq::apps {

#ifndef VVTQ_HAS_ONNX

void require_onnx(const std::string& path) {
    engine::input_error("'", data::printable(path),
                        "': this vvtq was built without ONNX; install libonnx-dev and libprotobuf-dev, then "
                        "build it again");
}

void write_onnx(const std::string& path, const quant::OnnxModel&, const std::map<std::string, std::string>&) {
    require_onnx(path);
}

#else

namespace {

/// The version of the file format that goes with an operator set.
int64_t ir_version(int opset) {
    if (opset <= 20) return 9;
    if (opset <= 22) return 10;
    return opset >= 25 ? 13 : opset - 12;
}

void set_port(const quant::OnnxPort& port, onnx::ValueInfoProto& info) {
    info.set_name(port.name);
    onnx::TypeProto_Tensor& type = *info.mutable_type()->mutable_tensor_type();
    type.set_elem_type(static_cast<int32_t>(port.type));
    type.mutable_shape()->add_dim()->set_dim_param("batch");
    for (const int64_t dim : port.shape) type.mutable_shape()->add_dim()->set_dim_value(dim);
}

void set_attribute(const std::string& name, const quant::OnnxAttribute& value,
                   onnx::AttributeProto& attribute) {
    attribute.set_name(name);
    if (const auto* integer = std::get_if<int64_t>(&value)) {
        attribute.set_type(onnx::AttributeProto_AttributeType_INT);
        attribute.set_i(*integer);
    } else if (const auto* number = std::get_if<float>(&value)) {
        attribute.set_type(onnx::AttributeProto_AttributeType_FLOAT);
        attribute.set_f(*number);
    } else {
        attribute.set_type(onnx::AttributeProto_AttributeType_INTS);
        for (const int64_t each : std::get<std::vector<int64_t>>(value)) attribute.add_ints(each);
    }
}

onnx::ModelProto proto_of(const quant::OnnxModel& model, const std::map<std::string, std::string>& metadata) {
    onnx::ModelProto proto;
    proto.set_ir_version(ir_version(model.opset));
    proto.set_producer_name("vvtq");
    onnx::OperatorSetIdProto& operators = *proto.add_opset_import();
    operators.set_domain("");
    operators.set_version(model.opset);
    for (const auto& [key, value] : metadata) {
        onnx::StringStringEntryProto& entry = *proto.add_metadata_props();
        entry.set_key(key);
        entry.set_value(value);
    }
    onnx::GraphProto& graph = *proto.mutable_graph();
    graph.set_name("vvtq");
    set_port(model.input, *graph.add_input());
    set_port(model.output, *graph.add_output());
    for (const quant::OnnxTensor& constant : model.constants) {
        onnx::TensorProto& tensor = *graph.add_initializer();
        tensor.set_name(constant.name);
        tensor.set_data_type(static_cast<int32_t>(constant.type));
        for (const int64_t dim : constant.shape) tensor.add_dims(dim);
        tensor.set_raw_data(constant.bytes.data(), constant.bytes.size());
    }
    for (const quant::OnnxNode& node : model.nodes) {
        onnx::NodeProto& added = *graph.add_node();
        added.set_op_type(node.op);
        added.set_name(node.name);
        for (const std::string& input : node.inputs) added.add_input(input);
        for (const std::string& output : node.outputs) added.add_output(output);
        for (const auto& [name, value] : node.attributes) set_attribute(name, value, *added.add_attribute());
    }
    return proto;
}

}  // namespace

void require_onnx(const std::string&) {}

void write_onnx(const std::string& path, const quant::OnnxModel& model,
                const std::map<std::string, std::string>& metadata) {
    const onnx::ModelProto proto = proto_of(model, metadata);
    constexpr size_t kMost = INT32_MAX;
    std::string bytes;
    if (proto.ByteSizeLong() > kMost || !proto.SerializeToString(&bytes)) {
        engine::input_error("'", data::printable(path), "' would take ", proto.ByteSizeLong(),
                            " bytes, more than ONNX allows: export a packed file, .safetensors");
    }
    data::AtomicFile file(path);
    file.write(bytes.data(), bytes.size());
    file.commit();
}

#endif

}  // namespace vvtq::apps
