namespace LongNet.Distributed.Collectives;

/// <summary>
/// Payload bytes that this rank has sent to and received from other ranks. The part that a rank keeps is not counted,
/// so a group of one rank counts nothing.
/// </summary>
/// <param name="BytesSent">Bytes this rank contributed. See <see cref="ProcessGroup"/> for the rule per
/// collective.</param>
/// <param name="BytesReceived">Bytes this rank took from other ranks.</param>
public readonly record struct CommunicationVolume(long BytesSent, long BytesReceived)
{
    public static CommunicationVolume operator +(CommunicationVolume left, CommunicationVolume right) =>
        new(left.BytesSent + right.BytesSent, left.BytesReceived + right.BytesReceived);

    public static CommunicationVolume operator -(CommunicationVolume left, CommunicationVolume right) =>
        new(left.BytesSent - right.BytesSent, left.BytesReceived - right.BytesReceived);
}
