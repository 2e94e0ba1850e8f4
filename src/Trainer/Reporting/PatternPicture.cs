using System.Text;
using LongNet.Core.Attention;

namespace LongNet.Trainer.Reporting;

/// <summary>Draws which keys the queries of a head see, and through how many branches, as an SVG.</summary>
/// <param name="Schedule">The branches.</param>
/// <param name="HeadOffsets">Which rows each head keeps.</param>
/// <param name="Heads">Heads of the model; the first few are drawn.</param>
/// <param name="Causal">Whether a row sees only itself and earlier rows.</param>
internal sealed record PatternPicture(SegmentSchedule Schedule, HeadOffsets HeadOffsets, long Heads, bool Causal)
{
    private const int Cells = 64,
        CellPixels = 5,
        Gap = 24,
        MostHeads = 4;

    // From one branch to four and more, on white.
    private static readonly string[] Shades = ["#b7d3ea", "#6fa8d6", "#2f76b5", "#0b3c6f"];

    /// <summary>
    /// The picture. Segments longer than 64 rows are drawn shorter, all by one factor; dilations stay what they are.
    /// </summary>
    public string ToSvg()
    {
        long longest = Schedule.Max(branch => branch.SegmentLength);
        long rowsPerCell = Math.Max(1, (longest + Cells - 1) / Cells);
        Branch[] drawn =
        [
            .. Schedule.Select(branch =>
                branch with
                {
                    SegmentLength = Math.Max(1, branch.SegmentLength / rowsPerCell),
                }
            ),
        ];
        int heads = (int)Math.Min(Heads, MostHeads),
            side = Cells * CellPixels;
        int width = heads * (side + Gap) + Gap,
            height = side + 3 * Gap;
        var svg = new StringBuilder();
        svg.Append(
            $"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" "
                + $"font-family=\"sans-serif\" font-size=\"12\">\n"
        );
        svg.Append($"<title>Dilated attention: {string.Join(", ", Schedule)}</title>\n");
        svg.Append($"<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n");
        for (int head = 0; head < heads; head++)
            Panel(svg, drawn, head, Gap + head * (side + Gap));
        string scale = rowsPerCell == 1 ? "" : $"; segments are drawn 1/{rowsPerCell} as long, dilations as they are";
        svg.Append(
            $"<text x=\"{Gap}\" y=\"{height - Gap / 2}\">queries down, keys across; the darker, the more "
                + $"branches see it{scale}</text>\n"
        );
        return svg.Append("</svg>\n").ToString();
    }

    private void Panel(StringBuilder svg, Branch[] branches, int head, int left)
    {
        svg.Append($"<text x=\"{left}\" y=\"{Gap - 8}\">head {head}</text>\n");
        svg.Append(
            $"<rect x=\"{left}\" y=\"{Gap}\" width=\"{Cells * CellPixels}\" height=\"{Cells * CellPixels}\" "
                + $"fill=\"none\" stroke=\"#999\"/>\n"
        );
        for (int query = 0; query < Cells; query++)
        {
            // Neighbours of one shade are one rectangle.
            int[] counts =
            [
                .. Enumerable.Range(0, Cells).Select(key => branches.Count(branch => Sees(branch, head, query, key))),
            ];
            for (int key = 0, end; key < Cells; key = end)
            {
                for (end = key + 1; end < Cells && counts[end] == counts[key]; )
                    end++;
                if (counts[key] > 0)
                {
                    svg.Append(
                        $"<rect x=\"{left + key * CellPixels}\" y=\"{Gap + query * CellPixels}\" "
                            + $"width=\"{(end - key) * CellPixels}\" height=\"{CellPixels}\" "
                            + $"fill=\"{Shades[Math.Min(counts[key], Shades.Length) - 1]}\"/>\n"
                    );
                }
            }
        }
    }

    private bool Sees(Branch branch, int head, long query, long key)
    {
        if (query / branch.SegmentLength != key / branch.SegmentLength || (Causal && key > query))
            return false;
        long offset = HeadOffsets.OffsetOf(head, Heads, branch.Dilation);
        return Keeps(query) && Keeps(key);

        bool Keeps(long row) =>
            row % branch.SegmentLength is var within && within >= offset && (within - offset) % branch.Dilation == 0;
    }
}
