// Request messages: from the payload of DATA frames to whole messages for the handler, with the
// bounds on what may lie here incomplete.

extension ServerCall {
    func stopReading() {
        if requestState != .head { requestState = .discarding }
        if !isDelivering { dropAssembly() }
    }

    func dropAssembly() {
        if assembly.capacity > 8192 { assembly = [] } else { assembly.removeAll(keepingCapacity: true) }
        chargeAssembly()
    }

    private func chargeAssembly() {
        let change = assembly.count - assemblyCharge
        if change == 0 { return }
        assemblyCharge = assembly.count
        connection?.partialBytes += change
        loop.partialBytes += change
    }

    /// Takes the payload of (a part of) a DATA frame. Returns true when a message was completed
    /// or the stream ended, which is what separates useful frames from noise.
    func receive(
        _ chunk: UnsafeRawBufferPointer, ends: Bool, _ connection: ServerConnection
    ) -> Bool {
        if isReceivingPaused {
            unconsumedBytes += chunk.count
        } else {
            connection.consumeStream(streamID, chunk.count)
        }
        if requestState == .discarding || requestState == .head { return true }
        if ends { endIsAnnounced = true }
        if assembly.isEmpty, !isReceivingPaused {
            let used = parse(chunk, connection)
            guard self.connection != nil, requestState != .discarding else { return true }
            if used < chunk.count {
                append(UnsafeRawBufferPointer(rebasing: chunk[used...]), connection)
            }
            return used > 0
        }
        append(chunk, connection)
        guard self.connection != nil, requestState != .discarding, !isReceivingPaused else {
            return true
        }
        return parseAssembly(connection)
    }

    private func append(_ bytes: UnsafeRawBufferPointer, _ connection: ServerConnection) {
        assembly.append(contentsOf: bytes)
        chargeAssembly()
        let limits = loop.configuration
        if connection.partialBytes > limits.maxPartialBytesPerConnection
            || loop.partialBytes > limits.maxPartialBytesPerLoop
        {
            finish(
                RPCStatus(
                    .resourceExhausted, "grpc: too many bytes of incomplete request messages"))
        }
    }

    @discardableResult
    func parseAssembly(_ connection: ServerConnection) -> Bool {
        guard !assembly.isEmpty, requestState != .held || assembly.count > heldLength else {
            return false
        }
        // A message that is not complete yet is the common case for large requests: look at its
        // length before anything is moved.
        if requestState == .reading, assembly.count >= 5, assembly[0] <= 1 {
            let length =
                Int(assembly[1]) << 24 | Int(assembly[2]) << 16 | Int(assembly[3]) << 8
                | Int(assembly[4])
            if length <= loop.configuration.maxReceiveMessageBytes, assembly.count < 5 + length {
                return false
            }
        }
        let taken = assembly
        assembly = []
        let used = taken.withUnsafeBytes { parse($0, connection) }
        if self.connection != nil, requestState != .discarding {
            if used == 0 {
                assembly = taken
            } else if used < taken.count {
                assembly = Array(taken[used...])
            }
        }
        chargeAssembly()
        return used > 0
    }

    /// Delivers the whole messages at the start of `bytes`; returns how many bytes they took.
    /// A unary message that cannot be answered yet counts as not taken.
    private func parse(_ bytes: UnsafeRawBufferPointer, _ connection: ServerConnection) -> Int {
        isDelivering = true
        defer { isDelivering = false }
        var offset = 0
        while bytes.count - offset >= 5 {
            let flag = bytes[offset]
            let length = Int(
                UInt32(
                    bigEndian: bytes.loadUnaligned(fromByteOffset: offset + 1, as: UInt32.self)))
            if let status = refusal(flag: flag, length: length) {
                finish(status)
                return offset
            }
            guard bytes.count - offset - 5 >= length, let entry else { break }
            let message = UnsafeRawBufferPointer(
                rebasing: bytes[offset + 5..<offset + 5 + length])
            if entry.unary != nil {
                if requestState == .complete || bytes.count > offset + 5 + length {
                    finish(.tooManyRequestMessages)
                    return offset
                }
                guard remoteEnded || endIsAnnounced else {
                    requestState = .held
                    heldLength = 5 + length
                    return offset
                }
                requestState = .complete
            }
            if flag == 0 {
                deliver(message, entry)
            } else if !inflateAndDeliver(message, entry) {
                return offset
            }
            offset += 5 + length
            if self.connection == nil || requestState == .discarding || isReceivingPaused { break }
        }
        return offset
    }

    private func deliver(_ message: UnsafeRawBufferPointer, _ entry: RouteTable.Entry) {
        loop.statistics.messagesReceived[entry.method.rawValue] &+= 1
        if let unary = entry.unary { unary(self, message) } else { handler?.received(message, self) }
    }

    /// False when the message cannot be taken apart; the call is then answered.
    private func inflateAndDeliver(_ message: UnsafeRawBufferPointer, _ entry: RouteTable.Entry) -> Bool {
        let limit = loop.configuration.maxReceiveMessageBytes
        do throws(Gzip.Failure) {
            let inflated = try Gzip.inflate(message, limit: limit)
            connection?.inflated(inflated.count, from: message.count)
            inflated.withUnsafeBytes { deliver($0, entry) }
            return true
        } catch {
            // grpc-go's codes and texts (rpc_util.go, recvAndDecompress).
            switch error {
            case .malformed(let text, let inflated):
                // A bomb with a wrong checksum at its end was as much work as a sound one.
                connection?.inflated(inflated, from: message.count)
                finish(RPCStatus(.internal, "grpc: failed to decompress the received message: \(text)"))
            case .tooLarge:
                connection?.inflated(limit, from: message.count)
                finish(
                    RPCStatus(
                        .resourceExhausted,
                        "grpc: received message after decompression larger than max (\(limit + 1) vs. \(limit))"))
            }
            return false
        }
    }

    private func refusal(flag: UInt8, length: Int) -> RPCStatus? {
        if length > loop.configuration.maxReceiveMessageBytes {
            return RPCStatus(
                .resourceExhausted,
                "grpc: received message larger than max "
                    + "(\(length) vs. \(loop.configuration.maxReceiveMessageBytes))")
        }
        switch flag {
        case 0: return nil
        case 1 where head.isGzip: return nil
        // Any other encoding but identity was refused with the headers already. grpc-go's text; its code is Internal,
        // where every other compression that is not there is Unimplemented (docs/divergence.md).
        case 1:
            return RPCStatus(
                .unimplemented, "grpc: compressed flag set with identity or empty encoding")
        default:
            return RPCStatus(.internal, "grpc: received unexpected payload format \(flag)")
        }
    }

    /// The peer has ended its side and everything before that has been received.
    func noteRemoteEnd() {
        remoteEnded = true
        guard let connection, !isReceivingPaused, let entry else { return }
        switch requestState {
        case .head, .discarding, .complete:
            return
        case .held:
            requestState = .reading
            parseAssembly(connection)
        case .reading:
            if !assembly.isEmpty {
                finish(RPCStatus(.internal, "unexpected EOF"))
            } else if entry.unary != nil {
                finish(.noRequestMessage)
            } else {
                requestState = .complete
                handler?.halfClosed(self)
            }
        }
    }
}
